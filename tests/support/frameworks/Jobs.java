/* Jobs on RabbitMQ's Java client with its automatic recovery, as it is by default.
 *
 *     Jobs work PORT QUEUE DONE                  a line in DONE for each job that is done
 *     Jobs dispatch PORT QUEUE PREFIX COUNT      with confirms; waits for all of them
 *
 * What is called "flaky" fails twice: it is given back to RabbitMQ. */

import com.rabbitmq.client.AMQP;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.DefaultConsumer;
import com.rabbitmq.client.Envelope;
import com.rabbitmq.client.MessageProperties;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.HashMap;
import java.util.Map;

public class Jobs {
    public static void main(String[] arguments) throws Exception {
        ConnectionFactory factory = new ConnectionFactory();
        factory.setPort(Integer.parseInt(arguments[1]));
        factory.setNetworkRecoveryInterval(200);
        Connection connection = factory.newConnection();
        Channel channel = connection.createChannel();
        String queue = arguments[2];
        channel.queueDeclare(queue, true, false, false, null);
        if (arguments[0].equals("work")) {
            work(channel, queue, Path.of(arguments[3]));
        } else {
            dispatch(channel, queue, arguments[3], Integer.parseInt(arguments[4]));
            connection.close();
        }
    }

    static void dispatch(Channel channel, String queue, String prefix, int count) throws Exception {
        channel.confirmSelect();
        for (int number = 0; number < count; number++)
            channel.basicPublish("", queue, MessageProperties.PERSISTENT_BASIC,
                    (prefix + "-" + number).getBytes(StandardCharsets.UTF_8));
        channel.waitForConfirmsOrDie(60000);
    }

    static void work(Channel channel, String queue, Path done) throws IOException {
        Map<String, Integer> tries = new HashMap<>();
        channel.basicQos(10);
        channel.basicConsume(queue, false, new DefaultConsumer(channel) {
            @Override
            public void handleDelivery(String consumer, Envelope envelope,
                    AMQP.BasicProperties properties, byte[] body) throws IOException {
                String text = new String(body, StandardCharsets.UTF_8);
                if (text.startsWith("flaky") && tries.merge(text, 1, Integer::sum) <= 2) {
                    channel.basicReject(envelope.getDeliveryTag(), true);
                    return;
                }
                Files.writeString(done, text + "\n", StandardOpenOption.CREATE,
                        StandardOpenOption.APPEND);
                channel.basicAck(envelope.getDeliveryTag(), false);
            }
        });
    }
}
